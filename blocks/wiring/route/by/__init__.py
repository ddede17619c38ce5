"""Steps that run on a subset of the tokens, chosen by a router."""

from blocks.wiring.route.by.config import RoutedBy

__all__ = ["RoutedBy"]
