"""The contract between the agent and its workers, their only meeting point: settings, verdicts, messages and measures."""
