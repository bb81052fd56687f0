"""Runs untrusted programs and judges them; knows no HTTP."""
