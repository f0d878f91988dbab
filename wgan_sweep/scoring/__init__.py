"""Scores of generated examples against real ones. Nothing is imported here: each scorer's libraries are heavy."""
