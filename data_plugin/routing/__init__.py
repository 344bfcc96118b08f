"""SDR (AAAI 2022), in our form: which sub-net of a supernet with groups has seen images like those of a task."""
