"""The report: what the files of a state directory, or of a replay, say about a period, as one HTML file."""
