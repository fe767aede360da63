"""The quickstart: from raw text to a model that answers, by the commands that it shows."""
