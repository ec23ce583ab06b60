# syntax=docker/dockerfile:1
# The binary and CA certificates, no shell, no user but 65532. It writes to /var/lib/oo-sidecar alone: mount a volume there
# and run it with a read-only root.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v1.2.3 --build-arg REVISION=$(git rev-parse HEAD) .
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Last, so that another version or platform does not download again. No path, time, build id or repository is in the
# binary: two builds of the same files are the same bytes.
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=devel
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /oo-sidecar ./cmd/oo-sidecar

FROM ${BASE_IMAGE}
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="oo-sidecar" \
      org.opencontainers.image.description="Governs an AI agent's tool calls: at most once, within budget, signed, audited" \
      org.opencontainers.image.source="https://github.com/oo-sidecar/oo-sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /oo-sidecar /oo-sidecar
USER 65532:65532
EXPOSE 4780 4781 4782
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["/oo-sidecar", "health"]
ENTRYPOINT ["/oo-sidecar"]
CMD ["serve"]
