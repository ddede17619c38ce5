"""Operations that most blocks use: norm, projections, rotary embedding, sums, with references and kernels."""
