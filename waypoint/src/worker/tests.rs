//! A waypoint's worker on loopback sockets: clients with certificates, applications outside the mesh, and a generation of
//! resources as the control plane sends them.

mod bytes;
mod early;
mod fixture;
mod requests;
mod spread;
