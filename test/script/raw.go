package script

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"time"
)

// patience is how long a raw client waits for any one answer: longer than every bound of the daemon.
const patience = 30 * time.Second

// raw does the steps of a raw client on a new connection to addr.
func (s *state) raw(addr string, steps []Step) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	p := player{conn: c, content: s.content, events: &s.events, closed: s.done, in: bufio.NewReader(c)}
	err = p.play(steps)
	if err != nil && errors.Is(err, errClosed) {
		return nil
	}
	return err
}

// read does the steps that only clients have.
func (p *player) read(s Step) error {
	if p.in == nil {
		return fmt.Errorf("only clients can %s", s.Verb)
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	switch s.Verb {
	case "expect":
		re, err := regexp.Compile(s.Args[0])
		if err != nil {
			return err
		}
		line, err := p.in.ReadString('\n')
		if !re.MatchString(line) {
			return fmt.Errorf("got %q (%v)", line, err)
		}
		return nil
	case "drain":
		_, err := io.Copy(io.Discard, p.in)
		return err
	default: // eof
		n, err := io.Copy(io.Discard, p.in)
		if err != nil && n == 0 {
			// A reset is an end too, a timeout is none.
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return fmt.Errorf("the connection is still open after %v", patience)
			}
		}
		return nil
	}
}
