# The image of the controller. Its context is made by `cargo xtask image`: the static binary, the certificates of the
# machine that builds it, and an empty folder. Time zones are in the binary.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --chown=65532:65532 reports/ /var/www/
COPY batch-job-controller /usr/bin/batch-job-controller
# A number, so that `runAsNonRoot` can tell that it is not root.
USER 65532:65532
# Callbacks, reports, metrics, health: the defaults of the configuration.
EXPOSE 8090 8080 9153 9152
ENTRYPOINT ["/usr/bin/batch-job-controller"]
