"""The kinds of claims: which cells each compares, and how."""
