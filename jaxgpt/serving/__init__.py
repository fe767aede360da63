"""A trained model over HTTP, in the protocol that clients of OpenAI's API speak."""
