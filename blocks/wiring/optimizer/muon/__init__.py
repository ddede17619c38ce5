"""Muon for the matrices of stages, AdamW for the rest."""

from blocks.wiring.optimizer.muon.config import Muon

__all__ = ["Muon"]
