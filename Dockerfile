# syntax=docker/dockerfile:1
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETOS=linux
ARG TARGETARCH=amd64
ARG VERSION=devel
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /oo-sidecar ./cmd/oo-sidecar

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="oo-sidecar" \
      org.opencontainers.image.description="Governs an AI agent's tool calls: at most once, within budget, signed, audited" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /oo-sidecar /oo-sidecar
USER 65532:65532
EXPOSE 4780 4781 4782
HEALTHCHECK --interval=10s --timeout=3s CMD ["/oo-sidecar", "health"]
ENTRYPOINT ["/oo-sidecar"]
CMD ["serve"]
