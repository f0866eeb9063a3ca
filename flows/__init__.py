"""The voicewatch job: settings, bootstrap, the dataflow and the command line."""
