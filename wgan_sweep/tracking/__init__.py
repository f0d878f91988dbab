"""Trackers: mirrors of a run on a dashboard."""
