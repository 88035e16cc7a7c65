"""Synthetic scenes and clips whose answers hinge on patches that we know."""
