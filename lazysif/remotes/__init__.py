"""What a remote's configuration stands for: its registry, its transport and its credentials, by kind."""
