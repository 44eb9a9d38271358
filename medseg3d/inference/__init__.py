"""Prediction: windows, decoding to the scan's grid, single volumes and whole folders."""
