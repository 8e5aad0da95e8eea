"""The processes under test: ours, the peers', the raw loop; each is started by the harness and recorded from within."""
