"""Predict, score and report."""
