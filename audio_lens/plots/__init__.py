"""Pictures of results; nothing computes here, and nothing that computes needs it."""
