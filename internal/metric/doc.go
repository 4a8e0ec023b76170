// Package metric turns the counters of proxy, cache, upstream and listener into
// Prometheus series. It is the only importer of Prometheus, and counts nothing
// itself: every figure is read when somebody scrapes.
//
// Names and labels are those of DESIGN.md section 7. Labels come from closed
// sets only: kinds, outcomes, configured upstreams, HTTP codes.
package metric
