"""Campaigns as Ray jobs: what travels, what is started, how it is followed, and how its end is told."""
