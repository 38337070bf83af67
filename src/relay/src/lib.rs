//! The guest's end of a channel: a small static program that dials ports inside the pod.
