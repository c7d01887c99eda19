"""What the agent and its workers share: settings, verdicts and measures. Their only meeting point."""
