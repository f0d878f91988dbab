"""Closed forms from theory, and figures and tables that compare trained runs with them."""
