//! Reach a port inside a VM pod from kubectl, crictl and friends.
