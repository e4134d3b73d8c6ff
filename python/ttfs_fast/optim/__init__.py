"""Optimization: the Muon optimizer and weights of a fixed sum and norm."""
