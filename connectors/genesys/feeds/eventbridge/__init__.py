"""The EventBridge feed: Genesys' events from an EventBridge API destination, or from an SQS queue."""
