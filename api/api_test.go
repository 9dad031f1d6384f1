package api

import (
	"encoding/json"
	"testing"
)

func TestNewError(t *testing.T) {
	for status, want := range map[int]string{
		400: TypeInvalidRequest, 401: TypeAuthentication, 403: TypeAuthentication, 404: TypeInvalidRequest,
		429: TypeRateLimit, 500: TypeServer, 507: TypeServer,
	} {
		e := NewError(status, CodeInternal, "", "m")
		if e.Type != want || e.Status != status || e.ErrorCode() != CodeInternal {
			t.Errorf("status %d gives %+v, want type %s", status, e, want)
		}
	}
}

// What is not known is null, and what is not for the client is not sent.
func TestErrorOnTheWire(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{NewError(404, CodeModelNotFound, "model", "no m"), `{"error":{"message":"no m","type":"invalid_request_error","param":"model","code":"model_not_found"}}`},
		{NewError(500, "", "", "x"), `{"error":{"message":"x","type":"server_error","param":null,"code":null}}`},
	}
	for _, tt := range tests {
		got, err := json.Marshal(ErrorResponse{Error: *tt.err})
		if err != nil || string(got) != tt.want {
			t.Errorf("got %s, %v\nwant %s", got, err, tt.want)
		}
		if tt.err.Error() != tt.err.Message {
			t.Errorf("as a Go error: %q", tt.err.Error())
		}
	}
}
