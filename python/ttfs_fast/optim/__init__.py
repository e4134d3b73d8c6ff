"""Optimization: Muon, weights of a fixed sum and norm, averaging, clipping and schedules."""
