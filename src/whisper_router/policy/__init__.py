"""Thresholds: how they are chosen and what they are bound to."""
