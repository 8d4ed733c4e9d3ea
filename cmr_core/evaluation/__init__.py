"""Ranking, metrics, groups and significance: from scores to numbers with intervals."""
