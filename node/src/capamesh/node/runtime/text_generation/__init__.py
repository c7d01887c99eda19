"""The texts of generation: prompts of messages, tokens of prompts, texts of tokens, and grammars that answers follow."""
