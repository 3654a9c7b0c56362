"""How answers are scored, rule by rule as each benchmark publishes it. Pure: items and texts in, numbers out."""
