"""The notifications feed: topics of Genesys' Notifications API, over WebSocket channels."""
