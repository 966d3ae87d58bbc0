"""Measuring instruments: plain functions usable on any model."""
