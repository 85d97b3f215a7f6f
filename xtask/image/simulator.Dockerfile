# The image of the simulated cluster, for tests of the controller's image. Its context is made by `cargo xtask image`.
FROM scratch
COPY simulator /usr/bin/simulator
USER 65532:65532
ENTRYPOINT ["/usr/bin/simulator"]
