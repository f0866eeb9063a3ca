"""The Notifications feed: Genesys' published events over WebSocket channels."""
