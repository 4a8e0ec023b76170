FROM golang:1.26-bookworm AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/cistern ./cmd/cistern \
 && mkdir -p /out/var/cache && mkdir -m 0700 /out/var/cache/cistern

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/cistern /cistern
# A new volume takes over owner and mode of what it is mounted on.
COPY --from=build --chown=65532:65532 /out/var /var
USER 65532:65532
# The default of the cache directory, which cache.dir and --cache-dir override.
ENV CACHE_DIRECTORY=/var/cache/cistern
VOLUME /var/cache/cistern
EXPOSE 5000 5001
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/cistern", "healthcheck"]
ENTRYPOINT ["/cistern"]
CMD ["serve"]
