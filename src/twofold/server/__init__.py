"""HTTP in front of the engine: the routes of OpenAI's API and what belongs to running a server."""
