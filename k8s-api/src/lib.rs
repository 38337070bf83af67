//! The slice of Kubernetes' APIs that gangplank speaks: CRI v1 messages and a little core/v1.
