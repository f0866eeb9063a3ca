"""The journal: written by the feeds, read by the dataflow, replayed as a recording."""
