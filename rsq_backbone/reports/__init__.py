"""Plots and pages made from typed results."""
