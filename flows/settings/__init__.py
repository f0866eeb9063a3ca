"""The configuration: models, environment, and errors that name every mistake."""
