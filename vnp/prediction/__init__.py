"""From merged features and a classifier to calls: scores, false discovery rates, tables and a report."""
