//! The host daemon and command line.

#![allow(dead_code)] // until everything is wired
mod config;
mod pods;
