"""Report a period from the files of a state directory, or of a replay, as one HTML file."""
