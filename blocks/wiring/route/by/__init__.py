"""Steps that run on some of the tokens, chosen by a router."""

from blocks.wiring.route.by.config import RoutedBy

__all__ = ["RoutedBy"]
