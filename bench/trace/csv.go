package trace

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

// WriteCSV writes all requests: time in seconds, client, method, kind, repository,
// tag or nothing, digest or nothing, size.
func (t *Trace) WriteCSV(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "time,client,method,kind,repo,ref,digest,size")
	for _, r := range t.Requests {
		method, kind, ref, digest, size := "GET", Ping, "", "", int64(0)
		if r.Head {
			method = "HEAD"
		}
		repo := ""
		if r.Object != None {
			kind, size, digest = t.Objects[r.Object].Kind, t.Objects[r.Object].Size, t.Digest(r.Object).String()
			repo = fmt.Sprint("repo-", r.Repo)
		}
		if r.Tag != ByDigest {
			ref = fmt.Sprint("tag-", r.Tag)
		}
		fmt.Fprintf(b, "%.3f,%s,%s,%s,%s,%s,%s,%d\n", r.At.Seconds(), t.Clients[r.Client], method, kind, repo, ref, digest, size)
	}
	return b.Flush()
}

// WriteLibCacheSim writes what is asked for by GET as libCacheSim's csv reader
// takes it (time-col=1,obj-id-col=2,obj-size-col=3,has-header=true): time in
// seconds, number of the object, size.
func (t *Trace) WriteLibCacheSim(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintln(b, "time,obj_id,obj_size")
	for _, r := range t.Requests {
		if r.Object != None && !r.Head {
			fmt.Fprintf(b, "%d,%d,%d\n", r.At/time.Second, r.Object, t.Objects[r.Object].Size)
		}
	}
	return b.Flush()
}
