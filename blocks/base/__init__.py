"""What a block author needs: base configs, field types, the builder."""
