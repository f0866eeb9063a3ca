"""The simulated Genesys for docker/compose.yaml, which others reach by the name of its container."""

from connectors.genesys.simulator.voice_events import SimulatorOptions, serve_forever

if __name__ == "__main__":
    serve_forever(SimulatorOptions(host="0.0.0.0", port=8080, conversations=5, seed=7))  # noqa: S104 - of a container
