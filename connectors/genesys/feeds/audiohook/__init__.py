"""The AudioHook feed: Genesys connects to us and streams the audio of calls."""
